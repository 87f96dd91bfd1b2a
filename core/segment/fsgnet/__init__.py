"""FSG-Net (methods/fsg-net.md): the network, its trunks, its guided decoder, its model files."""
