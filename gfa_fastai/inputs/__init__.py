"""One way in for each kind of thing: pictures, videos, faces, datasets, tables, weights, models.

    files      write whole or not at all; hashes; folders that can be written
    images     the picture loader: every path, array, PIL image and bytes go through `read_image`
    videos     the video opener: rotation, streams, the true number of frames
    faces      where the face is, and the square around it
    batches    pictures as batches of tensors
    tables     samples and scores as CSV
    trees      folders of files, and what can be wrong with them
    datasets   readers of the real datasets and of any folder: to add one, add a function here
    frames     frames and faces of a table, made once and cached
    weights    published VGG weights in any format, into a trunk
    models     a network, its settings and thresholds in one file
"""
