"""SPIRAL in one file: a tiny language model learns tic-tac-toe by playing against itself.

    python examples/minimal_spiral.py [SEED]     # about two minutes on one CPU core; needs only torch

The whole method of "SPIRAL: Self-Play on Zero-Sum Games Incentivizes Reasoning via Multi-Agent Multi-Turn Reinforcement
Learning" (arXiv 2506.24119), small enough to read at once and without importing the package:

1. one shared policy plays both players of many games, one reply a turn, until each game ends;
2. only the result pays: +1, -1 or 0; an illegal reply ends the game with -1.5 for its player and +0.5 for the other;
3. role-conditioned advantage estimation (RAE): a player's return minus a running mean kept for each player;
4. one clipped policy-gradient update over the tokens of every reply, with a KL pull towards the starting policy.

Shapes: N games or samples, L tokens of prompt and reply, T tokens of a reply, V vocabulary, D hidden size.
"""

import copy
import random
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

# ---------------------------------------------------------------- the game and its text

LINES = [(0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6)]
VOCABULARY = "012345678.-XO"  # the cells, the end of a reply, an empty cell, the two marks
TOKEN = {character: number for number, character in enumerate(VOCABULARY)}
REPLY = 2  # a reply is a cell and the end: "4."


class TicTacToe:
    """One game. `returns` is None until it is over."""

    def __init__(self):
        self.cells = ["-"] * 9
        self.player = 0  # who is to move
        self.returns = None

    @classmethod
    def opened(cls, rng, most=4):
        """A game after up to `most` random moves: self-play alone would soon see the same few positions."""
        game = cls()
        for _ in range(rng.randint(0, most)):
            game.apply(f"{rng.choice(game.legal())}.")
        return game

    def prompt(self):
        """What the player to move is given: the cells row by row and its own mark, 10 characters."""
        return "".join(self.cells) + "XO"[self.player]

    def legal(self):
        """The cells that are free."""
        return [cell for cell in range(9) if self.cells[cell] == "-"]

    def apply(self, reply):
        """Plays a reply such as "4."; an illegal one ends the game."""
        me, legal = self.player, [f"{cell}." for cell in self.legal()]
        if reply not in legal:
            self.returns = [0.5, 0.5]
            self.returns[me] = -1.5
            return
        self.cells[int(reply[0])] = mark = "XO"[me]
        if any(all(self.cells[cell] == mark for cell in line) for line in LINES):
            self.returns = [-1.0, -1.0]
            self.returns[me] = 1.0
        elif "-" not in self.cells:
            self.returns = [0.0, 0.0]
        self.player = 1 - me


# ---------------------------------------------------------------- the language model


class Block(nn.Module):
    """Attention and a feed-forward layer, each with a residual connection."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x_NLD):
        shape = (*x_NLD.shape[:2], self.heads, -1)
        q, k, v = (part.view(shape).transpose(1, 2) for part in self.qkv(self.norm_1(x_NLD)).chunk(3, dim=-1))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(x_NLD.shape)
        x_NLD = x_NLD + self.out(mixed)
        return x_NLD + self.feed(self.norm_2(x_NLD))


class LanguageModel(nn.Module):
    """A causal transformer: token ids [N, L] to logits [N, L, V]."""

    def __init__(self, width=48, layers=2, heads=4, context=12):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(len(VOCABULARY), width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, len(VOCABULARY), bias=False)

    def forward(self, ids_NL):
        x_NLD = self.tokens(ids_NL) + self.positions.weight[: ids_NL.shape[1]]
        return self.head(self.norm(self.blocks(x_NLD)))

    def reply_logits(self, ids_NL):
        """Logits [N, T, V] of the tokens of the reply, which ends the sequence."""
        return self(ids_NL[:, :-1])[:, -REPLY:]


def encode(texts):
    """Texts of one length to token ids [N, L]."""
    return torch.tensor([[TOKEN[character] for character in text] for text in texts])


# ---------------------------------------------------------------- playing


@torch.no_grad()
def sample_replies(model, prompts):
    """One sampled reply a prompt: texts, and the log-probability of each token, [N, T]."""
    ids, logprobs = encode(prompts), []
    for _ in range(REPLY):
        distribution = torch.distributions.Categorical(logits=model(ids)[:, -1])
        token = distribution.sample()
        logprobs.append(distribution.log_prob(token))
        ids = torch.cat([ids, token[:, None]], dim=1)
    return ["".join(VOCABULARY[number] for number in row[-REPLY:]) for row in ids.tolist()], torch.stack(
        logprobs, dim=1
    )


def self_play(model, games):
    """Plays all games to their ends. Returns turns: (game index, player, prompt, reply, log-probabilities [T])."""
    turns, playing = [], list(range(len(games)))
    while playing:
        prompts = [games[index].prompt() for index in playing]
        replies, logprobs = sample_replies(model, prompts)
        for index, prompt, reply, logprob in zip(playing, prompts, replies, logprobs):
            turns.append((index, games[index].player, prompt, reply, logprob))
            games[index].apply(reply)
        playing = [index for index in playing if games[index].returns is None]
    return turns


def play_random(model, count, rng):
    """Shares of wins, draws and losses of the model against uniformly random legal play, by turns as either player."""
    games = [TicTacToe() for _ in range(count)]
    mine = {id(game): number % 2 for number, game in enumerate(games)}
    playing = games
    while playing:
        ours = [game for game in playing if game.player == mine[id(game)]]
        theirs = [game for game in playing if game.player != mine[id(game)]]
        for game in theirs:
            game.apply(f"{rng.choice(game.legal())}.")
        if ours:
            for game, reply in zip(ours, sample_replies(model, [game.prompt() for game in ours])[0]):
                game.apply(reply)
        playing = [game for game in playing if game.returns is None]
    results = [game.returns[mine[id(game)]] for game in games]
    return tuple(sum(sign == (r > 0) - (r < 0) for r in results) / count for sign in (1, 0, -1))


# ---------------------------------------------------------------- learning


class RAE:
    """Role-conditioned advantage estimation: one baseline a player (section 3.3 of the paper)."""

    def __init__(self, decay=0.95):
        self.decay, self.baseline = decay, [0.0, 0.0]

    def __call__(self, games):
        """Advantages [games][player]: the return minus the player's baseline, read before it is updated."""
        advantages = []
        for game in games:
            advantages.append([game.returns[player] - self.baseline[player] for player in (0, 1)])
            for player in (0, 1):
                self.baseline[player] += (1 - self.decay) * (game.returns[player] - self.baseline[player])
        return advantages


def update(model, reference, optimizer, samples, kl, clip=0.2, minibatches=4):
    """One pass over `samples`, (ids [L], log-probabilities [T], advantage) each: clipped gradient and KL pull."""
    order, size = torch.randperm(len(samples)), -(-len(samples) // minibatches)
    for chosen in order.split(size):
        ids, old, advantages = (torch.stack(part) for part in zip(*(samples[index] for index in chosen)))
        new_logits = model.reply_logits(ids).log_softmax(-1)
        with torch.no_grad():
            reference_logits = reference.reply_logits(ids).log_softmax(-1)
        new = new_logits.gather(-1, ids[:, -REPLY:, None]).squeeze(-1)
        ratio = (new - old).exp()
        gain = torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
        pull = (new_logits.exp() * (new_logits - reference_logits)).sum(-1)
        loss = (kl * pull - gain).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def learn_to_speak(model, optimizer, rng, steps=120, count=64):
    """Imitates random legal replies, as pretraining teaches a language to a real model: legal, but without a plan."""
    for _ in range(steps):
        texts = []
        for game in (TicTacToe() for _ in range(count)):
            while game.returns is None:
                reply = f"{rng.choice(game.legal())}."
                texts.append(game.prompt() + reply)
                game.apply(reply)
        ids = encode(texts)
        loss = F.cross_entropy(model.reply_logits(ids).flatten(0, 1), ids[:, -REPLY:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def main(seed=0, steps=200, games_per_step=128, epochs=2, evaluation_games=1000):
    """Trains, prints what it learned, and returns the share of games lost to random play after training."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rng, start = random.Random(seed), time.monotonic()
    model = LanguageModel()
    learn_to_speak(model, torch.optim.AdamW(model.parameters(), lr=3e-3), rng)
    reference, estimator = copy.deepcopy(model), RAE()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    print("step   win  draw  lost   against random play, both players")
    for step in range(steps + 1):
        if step % 50 == 0:
            win, draw, lost = play_random(model, evaluation_games, rng)
            print(f"{step:4d}  {win:.0%}  {draw:4.0%}  {lost:4.0%}   {time.monotonic() - start:.0f} s", flush=True)
        if step == steps:
            break
        games = [TicTacToe.opened(rng) for _ in range(games_per_step)]
        turns = self_play(model, games)
        advantages = estimator(games)
        samples = [
            (encode([prompt + reply])[0], logprobs, torch.tensor([advantages[index][player]]))
            for index, player, prompt, reply, logprobs in turns
        ]
        left = 1 - step / steps  # the pull fades as the policy outgrows the random player it started from
        optimizer.param_groups[0]["lr"] = 3e-3 * left + 5e-5
        for _ in range(epochs):
            update(model, reference, optimizer, samples, kl=0.2 * left + 0.01)
    return lost


if __name__ == "__main__":
    main(seed=int(sys.argv[1]) if len(sys.argv) > 1 else 0)
