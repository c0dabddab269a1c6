"""Engines that turn tokens and options into a stream of tokens, behind one small interface."""
