"""`journeyman demo --mcu`: a model of the federation goes to an emulated Cortex-M3."""
