"""Other systems on the same pictures, and the protocols to judge them by.

    baselines    hand-made features and classical classifiers
    comparators  networks that are not GFA-CNN
    protocols    official protocols of the datasets
    recognition  who is it: embeddings, pairs, galleries
"""
