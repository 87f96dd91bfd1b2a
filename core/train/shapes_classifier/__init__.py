"""The small image classifiers that ship: of drawn pictures, in which one object is larger than all others."""
