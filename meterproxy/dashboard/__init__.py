"""The dashboard: pages for people, made of what the API answers; rendered here, with nothing fetched from elsewhere."""
