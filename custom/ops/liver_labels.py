"""Values of the liver bundle's label maps; 0 is background."""

LIVER, TUMOR = 1, 2
