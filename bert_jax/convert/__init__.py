"""Conversion to and from the model folders of other libraries; their spellings live here only."""
