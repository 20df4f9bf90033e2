"""What is done with a model file once it is there: predict, evaluate, calibrate, export."""
