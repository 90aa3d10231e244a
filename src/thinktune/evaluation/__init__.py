"""The same questions before and after, scored and compared."""
