"Train, judge and use a convolutional network that recognises The Simpsons' characters"

import lazy_loader

__version__ = "0.1.0"

# The public names stand in __init__.pyi, for editors and for this line alike. Each is imported at its first use.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
