"""``python -m prereg_moe`` is ``prereg-moe``."""

from prereg_moe.cli import main

main()
