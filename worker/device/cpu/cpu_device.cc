#include "worker/device/device.h"
