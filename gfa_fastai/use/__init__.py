"""From a picture to an answer: live or attack, and who.

    quality       is this picture good enough to be judged?
    gallery       enrolled people in a file
    authenticate  `FaceAuthenticator`: enrol, verify, identify
    predict       `learn.predict` on files
    export        ONNX
"""
