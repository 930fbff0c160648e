"""The intermediate representation: a small graph of affine ops and non-linearities, in numpy."""
