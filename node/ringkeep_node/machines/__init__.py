"""Pure protocol machines: facts and the time go in, frozen values that say what to do come out."""
