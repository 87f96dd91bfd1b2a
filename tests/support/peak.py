"""The most memory that a process of its own had."""

CODE = '''
def peak():
    """Bytes. Not ru_maxrss: that begins with what the parent had when it made this process."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
'''
"""For ``python -c``: defines ``peak()``."""
