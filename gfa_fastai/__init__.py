"""GFA-CNN (Tu et al. 2019), face anti-spoofing and recognition in one network.

The lesson, in reading order; each module is a chapter of the book:

    samples     one table for every image
    metrics     FAR, FRR, EER, HTER, APCER, BPCER, ACER
    model       VGG16 trunk and two heads
    tpc         Eq. 2: Total Pairwise Confusion
    fda         Eq. 3 to 5: Gram matrices and the transfer network
    data        two pictures in, two answers out
    learner     Eq. 1: the loss, the schedule, the Learner
    divergence  Eq. 6 to 8: how far apart two domains are
    evaluation  from scores to rates

The machinery; a package imports from those above it:

    inputs      files, pictures, videos, datasets, weights, models: the one way in for each
    synth       SynthPAD, the benchmark that is made on the spot
    train       checkpoints, guards, precision, several processes
    adapt       FDA for whole tables, its alternatives and controls
    compare     other systems, protocols, recognition
    use         from a picture to an answer
    run         jobs, reports, commands
"""
import os

# PyTorch's threads wait for each other by spinning, unless this is set before it is imported: where another program uses
# the same cores, spinning takes the time of the thread that is waited for.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

__version__ = "0.2.0"
