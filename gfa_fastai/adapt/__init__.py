"""Fast domain adaptation for whole tables, its fast form, its alternatives and controls.

    adapter   one interface: fit, transform, save, load
    fda       FDA: choose a target, fit the transfer network, transform
    fast      the transfer network with less work and equal output
    methods   controls and simple alternatives
    by_name   a method by its name
    light     a grid of colour transforms that cannot paint
    measures  how near a method comes, and what it takes from the picture
    media     folders of images and videos
"""
