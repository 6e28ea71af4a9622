// Uniform quintic B-splines through the radial functions.
//
// Cubic splines need twice to four times the knots for the same error, and the tables of filters then outgrow the second-level
// cache; besides, the rounding of coefficients enters the slope multiplied by the number of knots per Å.
#pragma once

#include <vector>

namespace hydrapot {

// √(2/r_c) sin(nπr/r_c)/r · envelope(r) for n = 1 … count at r ≥ 0 (potential/radial.py).
std::vector<double> radial_functions(double r, double cutoff, int count);

// Coefficients (intervals + 5, count): between knots k and k + 1 a function is Σ_m B_m(x) c[k + m], m = 0 … 5.
//
// The spline passes through the functions at all knots and has their first and second derivative at both ends; at the
// cutoff these are zero, so that value, slope and curvature vanish there.
std::vector<double> spline_coefficients(double cutoff, int count, int intervals);

}  // namespace hydrapot
