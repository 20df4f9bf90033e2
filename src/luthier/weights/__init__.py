"""What is done with files of weights: seen, fitted, written, converted, built again, compared."""
