"""What is attached is the object itself."""

from ignite.engine import Engine, Events

from custom.handlers import Attach


class Handler:
    def attach(self, engine):
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.remember)

    def remember(self, engine):
        self.epoch = engine.state.epoch


def test_the_handler_hears_the_engine():
    handler, engine = Handler(), Engine(lambda *_: None)
    Attach(handler=handler).attach(engine)
    engine.run([0], max_epochs=2)
    assert handler.epoch == 2
