"""The generated parts of the book's pages."""
