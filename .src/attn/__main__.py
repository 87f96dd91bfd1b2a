"""``python -m attn``: the same command as ``attn``."""

from attn.cli.main import main

if __name__ == "__main__":
    main()
