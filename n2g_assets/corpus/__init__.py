"""Sources become documents, documents become contexts of token ids: start at ``documents.read_documents``."""
