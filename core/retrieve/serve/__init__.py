"""`attn retrieve serve`: an index and its model kept open behind HTTP, for this machine only.

``desk`` answers, one thread for all; ``line`` is who waits for it; ``gate`` decides who comes in; ``app`` speaks HTTP;
``run`` is the server, ``client`` the other side (`search --server`).
"""
