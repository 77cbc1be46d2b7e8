#include "worker/model/model.h"
