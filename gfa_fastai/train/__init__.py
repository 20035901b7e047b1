"""Trainings that last: they can be stopped and resumed, are watched, and run in low precision or on several GPUs.

    checkpoint   state in a file, checked when it is read; `fit_resumable`
    guards       checks that every long training gets: `guarded(learn)`
    precision    bf16 and fp16 where the device has them
    memory       what a training needs
    distributed  one network, several processes
"""
