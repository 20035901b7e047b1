"""SynthPAD, the benchmark that is made on the spot: rendered people, printed and replayed, seen by four cameras.

    faces      people, their expressions, light and rooms
    attacks    prints, screens, cameras
    benchmark  four domains as a samples table
    audits     can a shortcut solve it?
"""
