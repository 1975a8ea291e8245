"""Plan: what an experiment's steps take on machines that are not there, by the compilers of those machines.

    python -m distill.plan experiments/pods/scout.py --topology v5p:2x4x4
    python -m distill.plan experiments/pods/scout.py --topology h100:4x8 --json plan.json

Nothing is executed. The real steps are built of shapes alone and compiled for the named devices; memory, products and
collectives are read from what the compiler made of them. Seconds are composed of these and of rates that are assumed
and printed: no clock is read, and the compiler's own estimate, which prices neither links nor kernels, is not used.
"""
