#include "services/convert.h"
