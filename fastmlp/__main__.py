"""Let ``python -m fastmlp`` do what the command ``fastmlp`` does."""

import sys

from .cli import main

sys.exit(main())
