"""rlgen: reinforcement learning in which every part of an agent is a generative model.

Importing it makes the ids of its worlds known to gymnasium, and does nothing else.
"""

from importlib.util import find_spec

__version__ = "0.1.0"

if find_spec("gymnasium") is not None:  # the generative floor does without
    from rlgen.envs import registration

    registration.register()
