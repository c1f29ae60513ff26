"""The nouns: money, attributes, events, steps, usage, charges, calls, findings. No behaviour beyond their own."""
