#!/usr/bin/env python3
"""Leaves a controller running with the template `py`: a Debian guest with a warm Python. The lab saves its host
after this, so that every test begins here."""

import product

product.controller.ensure()
product.snapshot("py", warmup=["numpy", "ssl", "random", "tempfile"])
