"""Jobs and commands.

    report     a page of results
    reproduce  the whole chain, in a folder that can be resumed
    score      one network, one folder, a table of scores
    cli        `gfa_reproduce` and its sisters
"""
