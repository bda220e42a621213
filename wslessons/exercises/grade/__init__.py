"""Grading: each handed-in notebook in a kernel of its own, judged from outside of it.

    results = asyncio.run(grader.grade(folder, grader.find(folder), grader.Limits()))

A student's code runs in its kernel and nowhere else. Clients, expectations and verdicts live in
the grader's process, with the code of the grader's installation; a small agent in the kernel
serves what the student wrote, and calls it. Nothing that was handed in is changed.

Not handled here: an operating system's walls. Who grades strangers does it in a container.
"""
