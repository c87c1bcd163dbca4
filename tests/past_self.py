"""An opponent sampler that plays the run's own checkpoints, and so has state that a resumed run needs."""

from spiral.rollout.opponents.base import OpponentSampler


class PastSelf(OpponentSampler):
    """Plays itself in half of the games, and in the others the checkpoint that it has played least."""

    def __init__(self, opponents):
        self.games = dict.fromkeys((name for name in opponents if name != "mirror"), 0)

    def sample(self, step, game, count, rng):
        names = []
        for _ in range(count):
            past = min(self.games, key=self.games.get)
            self.games[past] += 1
            names.append("mirror" if rng.random() < 0.5 else past)
        return names

    def add_checkpoint(self, step, name):
        self.games.setdefault(name, 0)

    def state_dict(self):
        return {"games": dict(self.games)}

    def load_state_dict(self, state):
        self.games = dict(state["games"])
