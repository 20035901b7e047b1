"""Jobs and commands.

    report     tables, figures and words of a run
    webpage    a report as one HTML page
    pictures   which pictures a report shows
    reproduce  the whole chain, in a folder that can be resumed
    score      one network, one folder, a table of scores
    cli        `gfa_reproduce` and its sisters
"""
