"""Lesson 6: many servers, one conversation, over NATS, Redis or Kafka."""
