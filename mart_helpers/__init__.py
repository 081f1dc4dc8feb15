"""What SQL cannot say for the Mini Data Mart notebooks: sessions, loading, publishing, checks, reports."""
