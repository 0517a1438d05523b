"""Reading what is published: one read-only database, studies and units as objects, searches."""
