"""From a configuration to a result that is kept, and from many to a study."""
