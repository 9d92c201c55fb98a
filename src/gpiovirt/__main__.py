# SPDX-License-Identifier: MIT
"""python -m gpiovirt"""

import sys

from gpiovirt.cli.main import main

sys.exit(main())
