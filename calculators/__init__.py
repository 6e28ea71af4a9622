"""Thin adapters that let simulation engines call a potential: units and shapes, no physics."""
