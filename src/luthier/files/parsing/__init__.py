"""What several formats are made of, read strictly: zip archives, JSON, protobuf, shapes."""
