"""Questions to a model, a bounded number of them under way."""

import contextlib

from spiral.core.policy import Question, TurnReply
from spiral.evaluation.answering import replies_to


class Slow:
    """Answers two questions per poll, the last submitted first."""

    def __init__(self):
        self.waiting, self.most = [], 0

    def submit_questions(self, questions):
        self.waiting += questions
        self.most = max(self.most, len(self.waiting))

    def poll(self):
        now, self.waiting = self.waiting[-2:], self.waiting[:-2]
        return [TurnReply(key=one.key, observation="", reply=one.text, action=None) for one in now]

    def cancel(self):
        self.waiting = []


def questions(count):
    return (Question(key=number, text=f"q{number}", seed=0) for number in range(count))


def test_every_question_is_answered_with_few_under_way():
    answerer = Slow()
    replies = list(replies_to(answerer, questions(9), 4))
    assert sorted((reply.key, reply.reply) for reply in replies) == [(n, f"q{n}") for n in range(9)]
    assert answerer.most == 4
    assert list(replies_to(answerer, [], 4)) == []


def test_giving_up_drops_the_questions_under_way():
    answerer = Slow()
    with contextlib.closing(replies_to(answerer, questions(9), 4)) as replies:
        assert next(replies).reply == "q2"
        assert len(answerer.waiting) == 2
    assert answerer.waiting == []
