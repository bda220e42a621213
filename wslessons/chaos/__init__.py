"""Chaos: servers, brokers and people under a random schedule of faults, and a checker of promises.

    wslessons chaos --minutes 1 --seed 7 --bus nats?stream=chat

Real servers in processes of their own stand over a real broker. Some hundred people talk in rooms,
over links that can be broken. A schedule, drawn from the seed, kills, stops and freezes servers and
brokers, empties the broker, breaks links in every way, and lets crowds, slow readers and flooders
in. Then all is mended, everybody says a last word, and what each of them has heard is held against
what was promised: nothing lost without a notice, nothing twice, one order, every count right,
everybody answered, nobody deaf, no ghosts in the roster, nothing left behind.

`schedule` draws what happens when; `checker` judges logs, and knows nothing of how they came
about; `people` are the clients, who keep the logs; `world` has all that is broken; `run` puts them
together; `command` is the command line.

Not handled here: several machines, clocks that differ, disks that fail.
"""

__all__: list[str] = []
