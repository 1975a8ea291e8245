"""Difficulty as data: it is measured (table), filtered by (filter), kept track of (tracker) and drawn by (draw)."""
