#include "worker/engine.h"
