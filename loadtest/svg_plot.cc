#include "loadtest/svg_plot.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "absl/strings/str_format.h"

namespace conclave::loadtest {
namespace {

constexpr double kWidth = 760;
constexpr double kHeight = 300;
constexpr double kLeft = 64;
constexpr double kRight = 16;
constexpr double kTop = 46;
constexpr double kBottom = 44;
constexpr std::array kColours = {"#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf"};

// Data to pixels along one axis.
struct Axis {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();
  bool logarithmic = false;
  double first = 0;  // pixel of low
  double last = 1;   // pixel of high

  bool empty() const { return low > high; }
  bool Has(double value) const { return std::isfinite(value) && (!logarithmic || value > 0); }
  void Cover(double value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
  double Scale(double value) const { return logarithmic ? std::log10(value) : value; }
  double At(double value) const {
    const double clamped = std::clamp(value, low, high);
    return first + (Scale(clamped) - Scale(low)) / (Scale(high) - Scale(low)) * (last - first);
  }
  // One value alone gets some room.
  void Widen() {
    if (low < high) return;
    if (logarithmic) {
      low /= 2;
      high *= 2;
    } else {
      high = low + 1;
    }
  }
};

std::string Text(double x, double y, const char* anchor, const std::string& text) {
  return absl::StrFormat("<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">%s</text>\n", x, y, anchor,
                         EscapeMarkup(text));
}

std::string Line(double x1, double y1, double x2, double y2, const char* kind) {
  return absl::StrFormat("<line class=\"%s\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>\n",
                         kind, x1, y1, x2, y2);
}

std::string Polyline(const char* colour, const std::string& points) {
  return absl::StrFormat("<polyline stroke=\"%s\" points=\"%s\"/>\n", colour, points);
}

class Drawing {
 public:
  explicit Drawing(const Plot& plot) : plot_(plot) {
    x_ = {.logarithmic = plot.log_x, .first = kLeft, .last = kWidth - kRight};
    y_ = {.first = kHeight - kBottom, .last = kTop};
    for (const Plot::Series& series : plot.series) {
      for (const auto& [x, y] : series.points) {
        if (!x_.Has(x) || !y_.Has(y)) continue;
        x_.Cover(x);
        y_.Cover(y);
      }
    }
  }

  std::string Draw() {
    std::string svg = absl::StrFormat(
        "<svg viewBox=\"0 0 %.0f %.0f\" role=\"img\" xmlns=\"http://www.w3.org/2000/svg\">\n",
        kWidth, kHeight);
    svg += Text(kLeft, 16, "start", plot_.title);
    if (x_.empty()) return svg + Text(kWidth / 2, kHeight / 2, "middle", "no data") + "</svg>\n";
    y_.Cover(0);
    if (plot_.x_least) x_.Cover(*plot_.x_least);
    if (plot_.x_most) x_.Cover(*plot_.x_most);
    x_.Widen();
    y_.Widen();
    return svg + Bands() + Axes() + Marks() + Lines() + Legend() + "</svg>\n";
  }

 private:
  std::string Bands() const {
    std::string svg;
    for (const Plot::Band& band : plot_.bands) {
      const double from = x_.At(band.from);
      const double width = std::max(1.5, x_.At(band.to) - from);
      svg += absl::StrFormat(
          "<rect class=\"band\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" "
          "height=\"%.1f\"><title>%s</title>"
          "</rect>\n",
          from, kTop, width, kHeight - kBottom - kTop, EscapeMarkup(band.name));
      svg += Text(from + 3, kHeight - kBottom - 5, "start", band.name);
    }
    return svg;
  }

  std::string Axes() const {
    std::string svg;
    for (const double value : Ticks(x_.low, x_.high, x_.logarithmic, 8)) {
      svg += Line(x_.At(value), kTop, x_.At(value), kHeight - kBottom, "grid");
      svg += Text(x_.At(value), kHeight - kBottom + 14, "middle", absl::StrFormat("%g", value));
    }
    for (const double value : Ticks(y_.low, y_.high, false, 6)) {
      svg += Line(kLeft, y_.At(value), kWidth - kRight, y_.At(value), "grid");
      svg += Text(kLeft - 5, y_.At(value) + 4, "end", absl::StrFormat("%g", value));
    }
    svg += Line(kLeft, kHeight - kBottom, kWidth - kRight, kHeight - kBottom, "axis");
    svg += Line(kLeft, kTop, kLeft, kHeight - kBottom, "axis");
    svg += Text((kLeft + kWidth - kRight) / 2, kHeight - 8, "middle", plot_.x_label);
    return svg + Text(4, kTop - 8, "start", plot_.y_label);
  }

  std::string Marks() const {
    std::string svg;
    for (const Plot::Mark& mark : plot_.marks) {
      svg += Line(x_.At(mark.x), kTop, x_.At(mark.x), kHeight - kBottom, "mark");
      svg += Text(x_.At(mark.x) + 3, kTop + 11, "start", mark.name);
    }
    return svg;
  }

  std::string Lines() const {
    std::string svg;
    for (size_t i = 0; i < plot_.series.size(); ++i) {
      const char* const colour = kColours[i % kColours.size()];
      std::string line;
      size_t length = 0;
      const auto end = [&] {
        if (length == 1) line += line;  // a dot, by its round ends
        if (length > 0) svg += Polyline(colour, line);
        line.clear();
        length = 0;
      };
      for (const auto& [x, y] : plot_.series[i].points) {
        if (!x_.Has(x) || !y_.Has(y)) {
          end();
          continue;
        }
        line += absl::StrFormat("%.1f,%.1f ", x_.At(x), y_.At(y));
        ++length;
      }
      end();
    }
    return svg;
  }

  std::string Legend() const {
    std::string svg;
    double x = kWidth - kRight;
    for (size_t i = plot_.series.size(); i-- > 0;) {
      const std::string& name = plot_.series[i].name;
      x -= 8 + 6.5 * static_cast<double>(name.size());
      svg += absl::StrFormat("<text x=\"%.1f\" y=\"%.1f\" fill=\"%s\">%s</text>\n", x, kTop - 8,
                             kColours[i % kColours.size()], EscapeMarkup(name));
    }
    return svg;
  }

  const Plot& plot_;
  Axis x_;
  Axis y_;
};

}  // namespace

std::string ToSvg(const Plot& plot) { return Drawing(plot).Draw(); }

std::string EscapeMarkup(std::string_view text) {
  std::string safe;
  for (const char c : text) {
    if (c == '&') {
      safe += "&amp;";
    } else if (c == '<') {
      safe += "&lt;";
    } else if (c == '>') {
      safe += "&gt;";
    } else if (c == '"') {
      safe += "&quot;";
    } else if (c == '\'') {
      safe += "&#39;";
    } else if ((c >= 0 && c < ' ' && c != '\n') || c == 0x7F) {
      safe += '?';
    } else {
      safe += c;
    }
  }
  return safe;
}

std::vector<double> Ticks(double low, double high, bool logarithmic, int count) {
  std::vector<double> ticks;
  if (logarithmic) {
    const auto last = static_cast<int>(std::floor(std::log10(high)));
    for (int power = static_cast<int>(std::ceil(std::log10(low))); power <= last; ++power) {
      ticks.push_back(std::pow(10, power));
    }
    if (ticks.size() > 1) return ticks;
    ticks.clear();  // within a decade the round values are the better ones
  }
  const double raw = (high - low) / count;
  const double power = std::pow(10, std::floor(std::log10(raw)));
  const double step = power * (raw <= power ? 1 : raw <= 2 * power ? 2 : raw <= 5 * power ? 5 : 10);
  const auto first = static_cast<int>(std::ceil(low / step - 1e-9));
  const auto last = static_cast<int>(std::floor(high / step + 1e-9));
  for (int i = first; i <= last; ++i) ticks.push_back(i * step);
  return ticks;
}

}  // namespace conclave::loadtest
