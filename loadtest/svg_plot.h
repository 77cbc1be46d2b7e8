#pragma once
// A plot of lines as an SVG element that stands in a page by itself. Pure functions.

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace conclave::loadtest {

struct Plot {
  struct Series {
    std::string name;
    std::vector<std::pair<double, double>>
        points;  // in order of x; others than finite are left out
  };
  struct Band {  // a stretch of x
    std::string name;
    double from = 0;
    double to = 0;
  };
  struct Mark {  // one x
    std::string name;
    double x = 0;
  };

  std::string title;
  std::string x_label;
  std::string y_label;
  bool log_x = false;             // then points with x <= 0 are gaps
  std::optional<double> x_least;  // the axis has these at least, if there is any point
  std::optional<double> x_most;
  std::vector<Series> series;
  std::vector<Band> bands;
  std::vector<Mark> marks;
};

// A plot without points says so.
std::string ToSvg(const Plot& plot);

// Safe as text and as a quoted attribute of HTML.
std::string EscapeMarkup(std::string_view text);

// Round values over [low, high], at most about `count`; of a logarithmic axis powers of ten.
std::vector<double> Ticks(double low, double high, bool logarithmic, int count);

}  // namespace conclave::loadtest
