"""Sources of what the console's pages load, and the script that bundles them."""
