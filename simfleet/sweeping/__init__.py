"""Many scenarios as one table: grids that resume, in processes here or on a cluster."""
